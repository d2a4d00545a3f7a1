"""What crosses the wire: checked on the way in, chosen on the way out."""
