"""Files by the hash of their content, in a folder or on S3: what blueprints mount, and layers.

An object is a blob or a folder as a tar. Its id says its bytes, so it is the same in every store,
and whoever reads it can check it.
"""
