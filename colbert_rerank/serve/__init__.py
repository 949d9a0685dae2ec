"""The HTTP service: one engine over named stores, in the dialects that search stacks speak already."""
