"""What the service promises: rules, in terms of the domain; it raises what errors.py knows."""
