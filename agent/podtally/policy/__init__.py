"""What the declared policies say of a connection: values in, values out."""
