"""Corpora of scene recordings: reading, preparing once, cutting into crops; impulse responses and made-up scenes."""
