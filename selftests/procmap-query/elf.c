// SPDX-License-Identifier: GPL-2.0-only
/* ELF files with a build-id in unusual places, and a reader of our own for the usual one. */
#include "fixture.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define NOTE_ALIGN(n) (((n) + 3) & ~(size_t)3)
#define MAX_SEGMENTS 8
#define MAX_BYTES 200000

struct image {
	unsigned char bytes[MAX_BYTES];
	size_t length;
};

static void put(struct image *image, size_t at, const void *bytes, size_t length)
{
	if (at + length > sizeof(image->bytes))
		kt_inconclusive("a note that is too far behind for the test");
	memcpy(image->bytes + at, bytes, length);
	if (at + length > image->length)
		image->length = at + length;
}

/* Where the note ends. */
static size_t put_note(struct image *image, size_t at, uint32_t type, const char *owner, const void *bytes,
		       size_t length)
{
	Elf64_Nhdr note = { .n_namesz = (uint32_t)strlen(owner) + 1, .n_descsz = (uint32_t)length, .n_type = type };
	static const char padding[4];

	put(image, at, &note, sizeof(note));
	at += sizeof(note);
	put(image, at, owner, note.n_namesz);
	at += NOTE_ALIGN(note.n_namesz);
	put(image, at, bytes, length);
	put(image, at + length, padding, NOTE_ALIGN(length) - length);
	return at + NOTE_ALIGN(length);
}

static void put_header(struct image *image, bool is_32_bit, unsigned int segments)
{
	unsigned char ident[EI_NIDENT] = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, is_32_bit ? ELFCLASS32 : ELFCLASS64,
					   ELFDATA2LSB, EV_CURRENT };

	if (is_32_bit) {
		Elf32_Ehdr header = { .e_type = ET_DYN, .e_version = EV_CURRENT, .e_phoff = sizeof(header),
				      .e_ehsize = sizeof(header), .e_phentsize = sizeof(Elf32_Phdr),
				      .e_phnum = (uint16_t)segments };

		memcpy(header.e_ident, ident, sizeof(ident));
		put(image, 0, &header, sizeof(header));
	} else {
		Elf64_Ehdr header = { .e_type = ET_DYN, .e_version = EV_CURRENT, .e_phoff = sizeof(header),
				      .e_ehsize = sizeof(header), .e_phentsize = sizeof(Elf64_Phdr),
				      .e_phnum = (uint16_t)segments };

		memcpy(header.e_ident, ident, sizeof(ident));
		put(image, 0, &header, sizeof(header));
	}
}

static void put_segment(struct image *image, bool is_32_bit, unsigned int number, uint32_t type, size_t at,
			size_t length)
{
	if (is_32_bit) {
		Elf32_Phdr segment = { .p_type = type, .p_offset = (uint32_t)at, .p_filesz = (uint32_t)length,
				       .p_align = 4 };

		put(image, sizeof(Elf32_Ehdr) + number * sizeof(segment), &segment, sizeof(segment));
	} else {
		Elf64_Phdr segment = { .p_type = type, .p_offset = at, .p_filesz = length, .p_align = 4 };

		put(image, sizeof(Elf64_Ehdr) + number * sizeof(segment), &segment, sizeof(segment));
	}
}

int elf_file(struct fixture *fixture, struct elf *elf, struct kt_rng *rng)
{
	static struct image image;
	unsigned int segments = elf->other_segments + 1 + elf->split_notes, number = 0;
	size_t at = elf->note_at ? elf->note_at : sizeof(Elf64_Ehdr) + MAX_SEGMENTS * sizeof(Elf64_Phdr), notes = at;

	memset(&image, 0, sizeof(image));
	for (size_t i = 0; i < elf->id_length; i++)
		elf->id[i] = (unsigned char)(1 + kt_below(rng, 255));
	put_header(&image, elf->is_32_bit, segments);
	for (; number < elf->other_segments; number++)
		put_segment(&image, elf->is_32_bit, number, PT_LOAD, 0, sizeof(Elf64_Ehdr));
	for (unsigned int i = 0; i < elf->other_notes; i++)
		at = put_note(&image, at, i % 2 ? NT_GNU_BUILD_ID : NT_GNU_ABI_TAG, i % 2 ? "Go" : "GNU",
			      "not the build-id", 5 + i);
	if (elf->split_notes) {
		put_segment(&image, elf->is_32_bit, number++, PT_NOTE, notes, at - notes);
		notes = at;
	}
	if (elf->id_length)
		at = put_note(&image, at, NT_GNU_BUILD_ID, "GNU", elf->id, elf->id_length);
	put_segment(&image, elf->is_32_bit, number, PT_NOTE, notes, at - notes);
	return fixture_file(fixture, elf->name, image.bytes, image.length);
}

static size_t id_in_notes(const unsigned char *notes, size_t length, unsigned char id[PM_ID_MAX])
{
	Elf64_Nhdr note;

	for (size_t at = 0; at + sizeof(note) <= length;) {
		size_t owner = at + sizeof(note), value;

		memcpy(&note, notes + at, sizeof(note));
		value = owner + NOTE_ALIGN(note.n_namesz);
		if (value + note.n_descsz > length)
			return 0;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && !memcmp(notes + owner, "GNU", 4) &&
		    note.n_descsz && note.n_descsz <= PM_ID_MAX) {
			memcpy(id, notes + value, note.n_descsz);
			return note.n_descsz;
		}
		at = value + NOTE_ALIGN(note.n_descsz);
	}
	return 0;
}

size_t elf_build_id(const char *path, unsigned char id[PM_ID_MAX])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	unsigned char notes[4096];
	Elf64_Phdr segment;
	Elf64_Ehdr header;
	size_t found = 0;

	if (fd < 0 || pread(fd, &header, sizeof(header), 0) != sizeof(header))
		kt_inconclusive("%s: %s", path, strerror(errno));
	for (unsigned int i = 0; i < header.e_phnum && !found; i++) {
		off_t at = (off_t)(header.e_phoff + i * sizeof(segment));

		if (pread(fd, &segment, sizeof(segment), at) != sizeof(segment))
			break;
		if (segment.p_type == PT_NOTE && segment.p_filesz <= sizeof(notes) &&
		    pread(fd, notes, segment.p_filesz, (off_t)segment.p_offset) == (ssize_t)segment.p_filesz)
			found = id_in_notes(notes, segment.p_filesz, id);
	}
	close(fd);
	return found;
}
