"""What goes over the wire, as values. Pure: no clock, no I/O, no lock."""
