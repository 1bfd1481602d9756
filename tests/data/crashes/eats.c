// SPDX-License-Identifier: GPL-2.0-only
/* Takes memory until there is none. */
#include <stdlib.h>
#include <string.h>

int main(void)
{
	char *piece;

	while ((piece = malloc(1 << 20)))
		memset(piece, 1, 1 << 20);
	return 1;
}
