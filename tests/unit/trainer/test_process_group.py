"""What the process group of training workers listens on."""

from __future__ import annotations

import json
import subprocess
import sys

GROUP = """
import json, os, sys
import psutil
import torch.distributed as dist
from deploy.ports import free_port
from trainer.process_group import keep_to_loopback
if sys.argv[1] == "ours":
    keep_to_loopback()
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
dist.init_process_group("gloo", init_method="env://", rank=0, world_size=1)
dist.new_group(backend="gloo")
dist.barrier()
listening = [one for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN]
print(json.dumps(sorted({one.laddr.ip for one in listening})))
dist.destroy_process_group()
"""


def listened_on(which: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", GROUP, which], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_it_listens_on_loopback_where_torch_would_listen_everywhere() -> None:
    assert listened_on("ours") == ["127.0.0.1"]
    assert "::" in listened_on("torch's own")
