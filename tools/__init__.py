"""Generators and examples for a checkout: schemas, access lists, pages drawn from code. They ship in no wheel."""
