package health

import (
	"net"
	"runtime"
	"slices"
	"weak"
)

// entryID names an entry of a table for as long as the entry is in use. Events
// carry it instead of a descriptor, which may belong to another connection by
// the time that the event is read.
type entryID struct{ index, generation uint32 }

// connKey is a connection, without keeping it.
type connKey struct {
	tcp  weak.Pointer[net.TCPConn]
	unix weak.Pointer[net.UnixConn]
}

// keep lets w live as long as the connection.
func (k connKey) keep(w *Watch) {
	if c := k.tcp.Value(); c != nil {
		runtime.AddCleanup(c, func(*Watch) {}, w)
	}
	if c := k.unix.Value(); c != nil {
		runtime.AddCleanup(c, func(*Watch) {}, w)
	}
}

// entry is a connection that is watched, by one Watch nearly always.
type entry struct {
	conn       connKey
	first      weak.Pointer[Watch]
	more       []weak.Pointer[Watch]
	generation uint32
	used       bool
}

// table holds what is watched. It keeps neither connections nor watches from
// being garbage collected.
type table struct {
	entries []entry
	free    []uint32
	byConn  map[connKey]uint32
}

// add enters w as a Watch of the connection.
func (t *table) add(conn connKey, w weak.Pointer[Watch]) entryID {
	if i, ok := t.byConn[conn]; ok {
		e := &t.entries[i]
		e.more = append(e.more, w)
		return entryID{i, e.generation}
	}
	var i uint32
	if n := len(t.free); n > 0 {
		i = t.free[n-1]
		t.free = t.free[:n-1]
	} else {
		i = uint32(len(t.entries))
		t.entries = append(t.entries, entry{})
	}
	if t.byConn == nil {
		t.byConn = make(map[connKey]uint32)
	}
	t.byConn[conn] = i
	e := &t.entries[i]
	*e = entry{conn: conn, first: w, generation: e.generation + 1, used: true}
	return entryID{i, e.generation}
}

// get returns the entry, or nil if it is no longer that one.
func (t *table) get(id entryID) *entry {
	if int(id.index) >= len(t.entries) {
		return nil
	}
	if e := &t.entries[id.index]; e.used && e.generation == id.generation {
		return e
	}
	return nil
}

// find returns the id of the connection's entry. Generations begin with 1, so
// that the id of none is the zero value.
func (t *table) find(conn connKey) entryID {
	i, ok := t.byConn[conn]
	if !ok {
		return entryID{}
	}
	return entryID{i, t.entries[i].generation}
}

// watches appends the watches of an entry that are still there.
func (t *table) watches(id entryID, to []*Watch) []*Watch {
	e := t.get(id)
	if e == nil {
		return to
	}
	if w := e.first.Value(); w != nil {
		to = append(to, w)
	}
	for _, p := range e.more {
		if w := p.Value(); w != nil {
			to = append(to, w)
		}
	}
	return to
}

// remove removes w from the entry, and reports whether it was the last.
func (t *table) remove(id entryID, w weak.Pointer[Watch]) (last bool) {
	return t.drop(id, func(p weak.Pointer[Watch]) bool { return p == w })
}

// sweep removes what was garbage collected from the entry.
func (t *table) sweep(id entryID) {
	t.drop(id, func(p weak.Pointer[Watch]) bool { return p.Value() == nil })
}

func (t *table) drop(id entryID, gone func(weak.Pointer[Watch]) bool) (last bool) {
	e := t.get(id)
	if e == nil {
		return false
	}
	if e.more = slices.DeleteFunc(e.more, gone); gone(e.first) {
		e.first = weak.Pointer[Watch]{}
		if n := len(e.more); n > 0 {
			e.first, e.more = e.more[n-1], e.more[:n-1]
		}
	}
	if len(e.more) == 0 {
		e.more = nil
	}
	if e.first != (weak.Pointer[Watch]{}) {
		return false
	}
	delete(t.byConn, e.conn)
	*e = entry{generation: e.generation}
	t.free = append(t.free, id.index)
	return true
}
