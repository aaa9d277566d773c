"""Which parameter gets which settings: the parameters of a module, the kinds they are of, and the cascade of rules."""
