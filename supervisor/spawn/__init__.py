"""The start of a new interpreter for an actor: by whom it is launched, and how it begins."""
