"""Who may ask, and how much one client may hold. It may import message and settings.
It must never know what is answered.
"""
