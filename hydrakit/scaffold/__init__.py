"""New plugins: a complete distribution that works as it is, written from templates.

``templates/`` holds the files of the distribution, with names such as ``$module`` in place of what
differs (`string.Template`). Each kind of component has a module, its tests, and its part of the
README.
"""

from __future__ import annotations
