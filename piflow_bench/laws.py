"""How samples get their labels, in words that intervals and pair statistics go by."""

LAWS = ("balanced", "uniform", "as data")
"""In turn; each drawn for itself; as the data have them."""
BY_PROMPT = "by prompt"
"""The law of prompts: each has so many samples, one after the other, and prompts are drawn."""
