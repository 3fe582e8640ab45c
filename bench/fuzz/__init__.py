"""`./run fuzz`: forged and broken notifications by the million, against the real gateway. None may be believed."""
