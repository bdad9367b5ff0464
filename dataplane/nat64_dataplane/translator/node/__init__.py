"""The node as netlink and sysctls show it, and the changes that a translator needs there.

`facts` is read, `plan` says what must change (pure), `netlink_host` changes it. Imports the config
and the host view; must never know a map, a session or the readers of the agent's reports.
"""
