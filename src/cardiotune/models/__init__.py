"""Who gives a risk: language models, and every comparator beside them."""
