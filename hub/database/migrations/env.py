"""Run the revisions on the connection of `hub.database.migrations`, in its transaction. Alembic executes this file."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
