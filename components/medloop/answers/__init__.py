"""What a served model returns: one file per task, each of which stands alone, for it is shipped inside the model.

An answer is a module with

- `said(outputs, card)`: what outputs (N, K) say, (N, S) float64;
- `answer(outputs, card)`: the columns that the served model returns;
- `columns(card)`: their names and types ("double", "string", "binary");
- where it returns masks, `mask(pixels, bit_depth, decoder, network, card)`: that of an image of any size, and
  `columns_of(masks, card)`; `decide(logits, card)` and `stitched(tiles, at, size)`, by which `evaluate` does the same;
  `WINDOWS`: arrays that the network takes at once;
- where it returns boxes, `boxes(pixels, bit_depth, decoder, network, card)` likewise, and `columns_of(boxes, card)`;
  `found(outputs)`, `restored(rows, array, size)` and `joined(parts, at, size)`, by which `evaluate` does the same;
- where it makes images, in place of `answer`, `generate(table, run, card)`: the columns for a table with those of
  `inputs(card)`, of which `example(card)` is one.
"""
