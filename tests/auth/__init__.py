"""Authentication: what the tests of this folder share is in `auth.tokens_for_tests` and `auth.attacks`."""
