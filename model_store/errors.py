"""What can go wrong with a bundle, each with a reason that a person can act on."""


class StoreError(Exception):
    """Base of everything that the store refuses."""


class BundleRefused(StoreError):
    """A bundle on disk is damaged, incomplete, foreign, or does not answer as it did when it was made."""


class UnknownVersion(StoreError):
    """No whole bundle of this name is in the store."""


class LabelConflict(StoreError):
    """`labels.json` changed between the read and the write (compare-and-swap on its generation)."""


class ReadOnlyStore(StoreError):
    """The store's folder cannot be written: not by this process, or not now (a full disk)."""


class BaseModelRefused(StoreError):
    """A base language model cannot be found, or packed attention does not reproduce it."""
