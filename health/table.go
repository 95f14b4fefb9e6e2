package health

import (
	"net"
	"net/netip"
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

// conn returns the connection, or nil if it was dropped.
func (k connKey) conn() net.Conn {
	if c := k.tcp.Value(); c != nil {
		return c
	}
	if c := k.unix.Value(); c != nil {
		return c
	}
	return nil
}

// entry is a connection that is watched, by one Watch nearly always. Free
// entries have no first. There may be many, so what is rare is elsewhere.
type entry struct {
	tcp        weak.Pointer[net.TCPConn]
	first      weak.Pointer[Watch]
	rare       *rareEntry
	policy     *Policy // the strictest of its watches'; nil: events only
	group      *group  // if there is a policy
	next, prev uint32  // in the group: the index + 1
	generation uint32
}

type rareEntry struct {
	unix weak.Pointer[net.UnixConn]
	more []weak.Pointer[Watch]
}

func (e *entry) used() bool { return e.first != weak.Pointer[Watch]{} }

func (e *entry) key() connKey {
	key := connKey{tcp: e.tcp}
	if e.rare != nil {
		key.unix = e.rare.unix
	}
	return key
}

func (e *entry) more() []weak.Pointer[Watch] {
	if e.rare == nil {
		return nil
	}
	return e.rare.more
}

func (e *entry) setMore(more []weak.Pointer[Watch]) {
	if e.rare == nil {
		if len(more) == 0 {
			return
		}
		e.rare = &rareEntry{}
	}
	e.rare.more = more
}

// table holds what is watched. It keeps neither connections nor watches from
// being garbage collected.
type table struct {
	entries []entry
	free    []uint32
	byTCP   map[weak.Pointer[net.TCPConn]]uint32
	byUnix  map[weak.Pointer[net.UnixConn]]uint32
	groups  map[netip.AddrPort]*group
	policed int // entries with a policy
}

// add enters w as a Watch of the connection.
func (t *table) add(key connKey, w weak.Pointer[Watch]) entryID {
	if id := t.find(key); id != (entryID{}) {
		e := &t.entries[id.index]
		e.setMore(append(e.more(), w))
		return id
	}
	var i uint32
	if n := len(t.free); n > 0 {
		i = t.free[n-1]
		t.free = t.free[:n-1]
	} else {
		i = uint32(len(t.entries))
		t.entries = append(t.entries, entry{})
	}
	e := &t.entries[i]
	*e = entry{tcp: key.tcp, first: w, generation: e.generation + 1}
	if key.unix != (weak.Pointer[net.UnixConn]{}) {
		e.rare = &rareEntry{unix: key.unix}
	}
	t.setIndex(key, i)
	return entryID{i, e.generation}
}

func (t *table) setIndex(key connKey, i uint32) {
	if t.byTCP == nil {
		t.byTCP = make(map[weak.Pointer[net.TCPConn]]uint32)
		t.byUnix = make(map[weak.Pointer[net.UnixConn]]uint32)
	}
	if key.unix != (weak.Pointer[net.UnixConn]{}) {
		t.byUnix[key.unix] = i
	} else {
		t.byTCP[key.tcp] = i
	}
}

// police puts an entry under a policy, besides those it is under already.
func (t *table) police(id entryID, p *Policy, remote netip.AddrPort) {
	e := t.get(id)
	if e == nil || p == nil {
		return
	}
	if e.policy != nil {
		e.policy = e.group.merge(e.policy, p)
		return
	}
	if t.groups == nil {
		t.groups = make(map[netip.AddrPort]*group)
	}
	g := t.groups[remote]
	if g == nil {
		g = &group{addr: remote}
		t.groups[remote] = g
	}
	e.policy, e.group = p, g
	t.policed++
	g.members++
	e.prev, e.next = 0, g.head
	if g.head != 0 {
		t.entries[g.head-1].prev = id.index + 1
	}
	g.head = id.index + 1
}

// release undoes police.
func (t *table) release(e *entry) {
	g := e.group
	if g == nil {
		return
	}
	if e.prev != 0 {
		t.entries[e.prev-1].next = e.next
	} else {
		g.head = e.next
	}
	if e.next != 0 {
		t.entries[e.next-1].prev = e.prev
	}
	t.policed--
	if g.members--; g.members == 0 {
		delete(t.groups, g.addr)
	}
}

// find returns the id of the connection's entry. Generations begin with 1, so
// that the id of none is the zero value.
func (t *table) find(key connKey) entryID {
	i, ok := t.byTCP[key.tcp]
	if !ok {
		i, ok = t.byUnix[key.unix]
	}
	if !ok {
		return entryID{}
	}
	return entryID{i, t.entries[i].generation}
}

// get returns the entry, or nil if it is no longer that one.
func (t *table) get(id entryID) *entry {
	if int(id.index) >= len(t.entries) {
		return nil
	}
	if e := &t.entries[id.index]; e.used() && e.generation == id.generation {
		return e
	}
	return nil
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
	for _, p := range e.more() {
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
	more := slices.DeleteFunc(e.more(), gone)
	if gone(e.first) {
		e.first = weak.Pointer[Watch]{}
		if n := len(more); n > 0 {
			e.first, more = more[n-1], more[:n-1]
		}
	}
	e.setMore(more)
	if e.used() {
		t.repolice(id, e)
		return false
	}
	t.release(e)
	delete(t.byTCP, e.tcp)
	delete(t.byUnix, e.key().unix)
	*e = entry{generation: e.generation}
	t.free = append(t.free, id.index)
	return true
}

// repolice is called when an entry has lost a Watch, and perhaps its policy.
func (t *table) repolice(id entryID, e *entry) {
	if e.policy == nil {
		return
	}
	var p *Policy
	for _, w := range t.watches(id, nil) {
		if w.policed {
			p = e.group.merge(p, w.policy)
		}
	}
	if p == nil {
		t.release(e)
		e.group, e.next, e.prev = nil, 0, 0
	}
	e.policy = p
}

// siblings appends the entries of a group.
func (t *table) siblings(g *group, to []entryID) []entryID {
	for i := g.head; i != 0; i = t.entries[i-1].next {
		to = append(to, entryID{i - 1, t.entries[i-1].generation})
	}
	return to
}
