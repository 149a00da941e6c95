"""Who is behind an interface or an address: sources in, one immutable table out."""
