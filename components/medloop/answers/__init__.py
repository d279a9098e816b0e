"""What a served model returns: one file per task, each of which stands alone, for it is shipped inside the model.

An answer is a module with

- `said(outputs, card)`: what outputs (N, K) say, (N, S) float64;
- `answer(outputs, card)`: the columns that the served model returns;
- `columns(card)`: their names and types ("double", "string").
"""
