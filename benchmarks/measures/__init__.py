"""Quality of pictures, by measures that no reward sees; each says its unit, its range and which way is better.

    look.py        one picture taken apart once, for all of them
    pixels.py      sharpness of edges, error of the palette, noise of the ground
    structure.py   distance to the nearest picture that the world's renderer could have drawn
    features.py    distance of all pictures to renders of the same prompts, in a fixed space of features
    diversity.py   entropy of the colours, places and sizes that a prompt leaves free
    bootstrap.py   intervals, by drawing prompts anew

None of them knows a network, an oracle or a reward; `benchmarks.quality` puts them together.
"""
