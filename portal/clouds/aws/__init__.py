"""AWS: clusters in an account of the customer's, by a role there that trusts the portal. SDKs load only when used.

`session.py` is who we are there, `trouble.py` what AWS's words mean, `tags.py` how ours are found again. `cloud.py` is
one region: what it does is in a module for each thing that is made (`network`, `filesystem`, `nodes` …), each of which
gets a `Region` and asks AWS through it. `account.py` is the rest: trust, permissions, roles, the store.
"""
