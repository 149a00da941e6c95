"""Commands that consist of little more than their arguments."""
