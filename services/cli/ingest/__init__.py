"""From paths to sources: collect, load, submit, follow.

`collect` walks and judges paths, `load` reads them into batches of bounded size, `submit` sends several batches at a
time, `follow` watches until everything is extracted and indexed. Each path ends as exactly one `Outcome`.
"""
