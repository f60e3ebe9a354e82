"""Alembic runs this; the connection comes from `multiarm.storage.engine.migrate`, inside its transaction."""

from alembic import context

from multiarm.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
