"""Who may do what: tokens, what they allow, and how fast."""
