"""By which request something was changed."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("audit", sa.Column("request_id", sa.String(128), comment="X-Request-Id of the answer"))


def downgrade() -> None:
    op.drop_column("audit", "request_id")
