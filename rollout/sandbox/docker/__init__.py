"""The Docker engine: any image, any runtime that shares this kernel, with our own init inside."""
