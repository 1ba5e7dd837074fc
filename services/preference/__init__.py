"""People as an oracle: groups become comparisons, people choose, their choices become rewards.

model.py      what a group, a comparison, a presentation, a choice and a rater are
queue.py      the queue's contract: leases, choices, undo, settling; `memory_queue.py` and `redis_queue.py` keep it
rules.py      what both go by. `memory_state.py` is the one's; `names.py`, `redis_records.py`, `lua/` the other's
pairing.py    which pairs of a group are asked about
rewards.py    choices -> a reward a picture (Bradley–Terry), and how far people agree
oracle.py     the protocol's side: takes groups over, answers later
settling.py   closes groups that are answered or due, and posts their rewards to the gateway
app.py        the HTTP side: `pages/` for raters and operators, `api.py` for the page's module and for programs;
              they share `context.py`, `sessions.py`, `guard.py`, `faults.py`, and show `showing.py`, `overview.py`
"""
