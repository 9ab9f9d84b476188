"""Who is told apart from whom: cells of the results, intervals over seeds, declared families.

The only place that decides it; the terminal, the page, ``report --diff`` and the exports read it.
"""
