"""Questions over tables: files made tables that can only be read, questions made queries, and queries run within limits.

Nothing here needs more than Python's own library, and nothing knows the platform: it is run as a process of its own
(`python -m modelworks.tables`), which may be ended at any moment. Workbooks need openpyxl.
"""
