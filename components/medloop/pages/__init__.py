"""The words and figures of a report that its task decides: one file per task.

A page is a module with

- `asked(card, choice)`: rows (term, text) of what was asked; `contents(metrics)`: what the test set is made of;
- `shown(card)`: the metrics that a reader sees first, and by group; `BY_LABEL`: those of each label, where a sample may
  have several; `meanings(card, units)`: what each of them is;
- `outcome(metrics, card, units)`: what came out, in plain sentences;
- `broken(metrics)`, `small(metrics, units)`, `trust(metrics, choice)`: limits, or None; `JUDGED`: metrics by which a
  group may do worse, beside the gating one;
- `figures(predictions, card)`: matplotlib figures by name; `FIGURES`: what each shows;
- `WORST`, and optionally `WORST_TITLE`: which samples `worst(predictions)` gives, the worst first: place, label, what
  was said, marks on its picture;
- `tuned(choice)`: what else was chosen, for the line on the architecture;
- optionally `tables(predictions)`: more tables (title, note, header, rows); `examples(predictions)`, like `worst`, of
  samples with which nothing need be wrong, and `EXAMPLE`, what they show; of masks `overlay(pixels, true, predicted)`;
  of made images `picture(study, place, card)`, whose places `worst` and `examples` give, and `names(predictions)`.
"""
