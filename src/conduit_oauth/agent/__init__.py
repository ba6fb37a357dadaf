"""Keeps tokens fresh and puts them where other programs read them. Needs the extra `agent`.

`config` reads what is wanted, `outputs` writes it, `keeper` decides when, `web` and `metrics` tell
of it, `service` runs it all.
"""
