"""What is predicted: one file per task, for all in which naming a class differs from telling a number.

A task is a module with

- `GATE`: the metric that epochs, architectures and champions are held against, the higher the better, or where it says
  `LOWER_IS_BETTER = True` the lower; `METRICS`: those of a report; `CENTRED`: those whose interval is shifted back by
  what resampling alone adds;
- `KINDS`: of sample that it takes, files of medloop/kinds; `GIVES = "map"` where its networks tell something of every
  pixel, "boxes" where they find objects, "image" where they make images, else nothing: architectures declare the same;
- `NUMBERS`: whether it tells numbers, which may follow from the values of a sample: the next moment of a signal;
- `check(facts)`: raises Refused for a data set that it cannot score;
- `outputs(classes)`: how many numbers the network gives;
- `targets(rows, classes)`: (N,), or (N, L) of several labels, what `labels.npy` holds, where the values do not say it
  themselves;

For `train`

- `fitted(labels)`: constants of the training labels that the card keeps as `target`; `scaled(labels, target)`: labels
  (N,) as the loss takes them; `loss()`: of those, outputs (B, K) and sample weights;
- `said(outputs, card)`: what outputs (N, K) say, (N, S) float64, with the constants of the card; `score(labels, said)`:
  the gating metric; `gate(labels, said, weights)`: the same under (R, N) sample weights;
- optionally `floors(inputs, labels, card)`: rivals that a network must beat, fitted on train; `rivals(floors, inputs,
  predictions)`: what they say of others, by name;
- optionally `questions(labels, classes)`: where a logit is no class, the yes or no that each answers, (N, K) 1 and 0,
  and -1 of a sample that is not asked;

Of a task that gives maps or boxes no more is ever held than a batch: wherever outputs (N, K) and labels (N, L) are
spoken of, they are what it keeps of maps (B, H, W, K') and masks (B, H, W), or of (B, A, K') and boxes (B, M, 5),

- `reduced(maps, masks)`: (B, K) numbers; `areas(masks, classes)`: (B, L);
- `measured(map, mask, objects, spacing, card, section)`, of boxes `measured(detections, boxes, card)`: in place of
  `predictions`, the numbers of one test image, and `gathered(table, numbers, card)`: the `Predictions` of all;
- `compared(masks or boxes of the served model, true ones, classes)`: what is said of images, at their own size.

Of a task that makes images, a network says itself how wrong it is, by which its epochs are held against one another;
what is said of a sample (N, S) is what a study of the made images says of it, see medloop/study.py,

- `fed_shape(shape)`, `fed(images, labels, random)`: what a network is given of images (B, H, W, C), and its shape;
- `making(architecture)`: what the card says of how an image is made; `JUDGE`: the architecture of the classifier that
  a study is made with.

For `evaluate`

- `chosen(labels, outputs, card, section)`: what else is chosen on validation data, for the card: a threshold, say;
- `predictions(table, labels, outputs, card)`: a `Predictions`; `read(table, card)`: the same from its `frame()`;
- `rarest(labels, groups)`: how many clusters an interval can count on;
- optionally `more(predictions)`: what else metrics.json says;

For `promote`

- `too_few(labels, classes, rule)`: why these are too few to decide, or None;
- optionally `objection(labels, said, rule)`, in place of a floor: why a version may be no champion, or None;
- `stored(classes)`: columns of predictions.parquet that hold `said`; `served(classes)`: those of the served model.

`Predictions` (dataclass of `table`, `labels` and more, a row a sample) has `where(chosen)`, `frame()`,
`metrics(weights)`, `counts()`, `by_label()` where a sample may have several labels, and `too_small()`, a reason for no
interval or None.

Beside it stand answers/<task>.py, which turns outputs into what the served model returns and stands alone, and
pages/<task>.py, the words and figures of its report.
"""
