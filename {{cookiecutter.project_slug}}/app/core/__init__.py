"""What every other room uses; this room imports none of them."""
