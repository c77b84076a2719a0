"""Clients and workers of each system. They run as processes of their own, in that system's interpreter, and import only
what is installed there: nothing here but words.py may be imported by the rest.
"""
