"""Tables of records as document collections of MongoDB."""
