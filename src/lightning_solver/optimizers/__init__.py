"""From names to optimisers: the class and its arguments, its fastest implementation, several as one."""
