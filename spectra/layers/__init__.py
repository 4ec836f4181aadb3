"""One live module with its shift: frozen operators, plans, their costs, and what each keeps."""
