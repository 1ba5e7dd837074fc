"""An oracle in ten lines: how blue a picture is. Serve it with `python kit_oracle.py`, on port 8800 of loopback."""

from rewardmesh import oracle


@oracle(version="1", reward_min=0.0, reward_max=1.0)
def blueness(pictures, prompts, checks):
    """One reward a picture, [H, W, 3] uint8; `prompts` and `checks` say what the picture should show."""
    return [picture[..., 2].mean() / 255 for picture in pictures]


if __name__ == "__main__":
    blueness.serve()
