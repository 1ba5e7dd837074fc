"""A second opinion on pictures of the shapes world, that is never a reward and shares no code with one.

    ground.py    what is ink and what is ground, and how much of each pixel is ink
    outlines.py  which of six shapes an outline is: how far it reaches in each direction
    shapes.py    objects: connected ink, taken apart where it is several things; shape, colour and place of each
    words.py     text: PP-OCRv6 on ONNX, its weights inside the package `rapidocr`
    rules.py     GenEval's rules, clause by clause
    judge.py     the four together, as a `trainer.evaluate.Judge`

No network here was trained on this world. That nothing of `services` is imported is an import rule; that no oracle and
no recipe can name this is another: `benchmarks` is above all roles, and in no wheel
(docs/decisions/0023-an-independent-evaluator.md). How well it reads: `python -m benchmarks.evaluators`.
"""
