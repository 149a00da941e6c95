"""``podtally doctor``: what this host offers and lacks, and the mend for each."""
