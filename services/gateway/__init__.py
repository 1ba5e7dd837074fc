"""The HTTP front of a deployment: who may ask, which oracles there are, pictures in and rewards out.

tokens       who may do what, and how often
audit        one line a change
gate         what every request passes before any route: token, rate, size
openapi      the document, where FastAPI cannot know
answers      what is sent back: one shape of error, and the status of each
context      what all routes share
registering  oracles: probe, register, change, remove
oracles      the same, as routes
amending     an oracle more for a run that is training
scoring      pictures in, results out
late         answers of deferred oracles
dead_letters what failed for good
status       oracles, runs and depths, as JSON and as one page
emulations   the requests of other trainers
app          all of it, as one ASGI app
serve        the app as a Ray Serve application
"""
