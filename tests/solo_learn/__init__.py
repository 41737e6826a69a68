"""With ``SOLO_BAM_TEST_UNMENDED=knn`` in the environment, solo-learn is left without that mend in every test process.

Here, because this runs before any test module of the folder, or what it imports, can import solo-learn.
"""

import os

from tests.solo_learn.unmended import leave_out

if name := os.environ.get("SOLO_BAM_TEST_UNMENDED"):
    leave_out(name)
