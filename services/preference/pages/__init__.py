"""The pages, rendered here and complete without a script; one module of script makes the raters' page quick.

rendering  templates, and the page that says what went wrong
words      what the page says when there is nothing to show
rater      joining, choosing, undoing
operator   signing in, looking, changing
"""
