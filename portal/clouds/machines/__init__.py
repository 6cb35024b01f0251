"""Own machines: computers that a team has already, in pools, reached by SSH as an account that was given to the portal.

What there is of them are rows (`models`), because computers are taken by one statement of the database. Nothing on
them is ours but folders below a pool's base folder, and one line that an administrator has put into `authorized_keys`.
"""
