"""What moves work from the stream to an oracle and its rewards back.

    settings   where a worker runs and what bounds it
    policy     which failure is worth another attempt, and when
    validate   nothing that an oracle answers is believed before it is checked
    client     the HTTP protocol, from the caller's side
    link       one oracle as one worker sees it: client, limits, pauses
    pump       claim → ask → settle for one (run, oracle)
    reuse      answers that were given before, where a run allows them
    worker     finds runs and oracles, keeps a pump for every pair
    spans      the samples' spans, where traces are exported
    recorder   what becomes of an asked batch: settle, retry, release
    meter      what a worker measures
    pictures   re-encodes what an oracle does not open
    retry_after  the header of that name
    process    one worker as a plain process (`python -m reward_workers`)
    serve      a few worker replicas as a Ray Serve application

It does not own what an oracle is asked and how that may fail (`rewardmesh.dialects`), the oracles (`services`), nor
what is learnt from rewards (`trainer`).
"""
