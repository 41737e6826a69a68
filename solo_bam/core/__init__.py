"""What every room may use: collectives, errors for users, whole files, hardware, nearest neighbors. Imports

nothing else of the package.
"""
