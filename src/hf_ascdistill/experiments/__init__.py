"""The paper's tables: their grid of teachers and students, and the plan that trains them."""
