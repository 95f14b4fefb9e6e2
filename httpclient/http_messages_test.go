package httpclient

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTrailersGoBothWays(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			assert.Contains(t, r.Trailer, "Sum")
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Trailer", "Declared")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("Declared", r.Trailer.Get("Sum"))
			w.Header().Set(http.TrailerPrefix+"Undeclared", "u")
		})
		c := clientOf(t, s)
		for range 3 {
			req := newReq(t, "POST", s.URL, io.MultiReader(strings.NewReader("body")))
			req.Trailer = http.Header{"Sum": nil}
			req.Body = &atEOF{ReadCloser: req.Body, do: func() { req.Trailer.Set("Sum", "42") }}
			resp, body := send(t, c, req)
			assert.Equal(t, "body", body)
			assert.Equal(t, "42", resp.Trailer.Get("Declared"))
			assert.Equal(t, "u", resp.Trailer.Get("Undeclared"))
		}
		assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
	})
}

type atEOF struct {
	io.ReadCloser
	do func()
}

func (b *atEOF) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.do()
	}
	return n, err
}

func TestChunksArriveWhenTheyAreFlushed(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		next := make(chan bool)
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			for i := range 3 {
				fmt.Fprintf(w, "chunk %d", i)
				_ = http.NewResponseController(w).Flush()
				<-next
			}
		})
		c := clientOf(t, s)
		resp, err := c.RoundTrip(newReq(t, "GET", s.URL, nil))
		require.NoError(t, err)
		defer resp.Body.Close()
		assert.EqualValues(t, -1, resp.ContentLength)
		if !h2 {
			assert.Equal(t, []string{"chunked"}, resp.TransferEncoding)
		}
		for i := range 3 {
			b := make([]byte, len("chunk 0"))
			_, err = io.ReadFull(resp.Body, b)
			require.NoError(t, err)
			assert.Equal(t, fmt.Sprintf("chunk %d", i), string(b))
			assert.Equal(t, 1, onlyHost(t, c).InFlight)
			next <- true
		}
		rest, err := io.ReadAll(resp.Body)
		assert.Empty(t, rest)
		assert.NoError(t, err)
		assert.Zero(t, onlyHost(t, c).InFlight, "the end of the body ends the request, even before Close")
	})
}

func TestAResponseWithoutABodyFreesItsConnectionEvenIfNobodyClosesIt(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		for _, test := range []struct {
			method string
			status int
		}{{"HEAD", 200}, {"GET", 204}, {"GET", 304}, {"POST", 200}} {
			t.Run(fmt.Sprint(test.method, test.status), func(t *testing.T) {
				s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
					if r.Method == "HEAD" {
						w.Header().Set("Content-Length", "1000")
					}
					w.WriteHeader(test.status)
				})
				c := clientOf(t, s)
				for range 5 {
					resp, err := c.RoundTrip(newReq(t, test.method, s.URL, nil))
					require.NoError(t, err)
					assert.Equal(t, test.status, resp.StatusCode)
					if test.method == "HEAD" {
						assert.EqualValues(t, 1000, resp.ContentLength)
					}
					n, err := resp.Body.Read(make([]byte, 1))
					assert.Zero(t, n)
					assert.Equal(t, io.EOF, err)
				}
				for range 5 { // with nobody reading it either
					resp, err := c.RoundTrip(newReq(t, test.method, s.URL, nil))
					require.NoError(t, err)
					require.NotNil(t, resp.Body)
					assert.Zero(t, onlyHost(t, c).InFlight)
				}
				assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
			})
		}
	})
}

func TestGzipIsTransparentUnlessItWasAskedFor(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = io.WriteString(w, "unpacked")
	require.NoError(t, w.Close())
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "gzip" {
				_, _ = io.WriteString(w, "plain")
				return
			}
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(packed.Bytes())
		})
		c := clientOf(t, s)
		resp, body := send(t, c, newReq(t, "GET", s.URL, nil))
		assert.Equal(t, "unpacked", body)
		assert.True(t, resp.Uncompressed)
		assert.Empty(t, resp.Header.Get("Content-Encoding"))
		req := newReq(t, "GET", s.URL, nil)
		req.Header.Set("Accept-Encoding", "gzip")
		resp, body = send(t, c, req)
		assert.Equal(t, packed.String(), body)
		assert.False(t, resp.Uncompressed)
		none := clientOf(t, s, func(cfg *Config) { cfg.Transport.DisableCompression = true })
		assert.Equal(t, "plain", fetch(t, none, s.URL))
		assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
	})
}

func TestRedirectsAndCookiesAreFollowedByAnHTTPClient(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/start":
				http.SetCookie(w, &http.Cookie{Name: "seen", Value: "yes"})
				http.Redirect(w, r, "/end", http.StatusTemporaryRedirect)
			case "/loop":
				http.Redirect(w, r, "/loop", http.StatusFound)
			default:
				cookie, err := r.Cookie("seen")
				assert.NoError(t, err)
				body, _ := io.ReadAll(r.Body)
				fmt.Fprint(w, r.Method, " ", cookie.Value, " ", string(body))
			}
		})
		c := clientOf(t, s)
		h := c.HTTPClient()
		h.Jar, _ = cookiejar.New(nil)
		resp, err := h.Do(newReq(t, "POST", s.URL+"/start", strings.NewReader("body")))
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, "POST yes body", string(body))
		assert.Equal(t, "/end", resp.Request.URL.Path)
		assert.Equal(t, s.URL+"/start", resp.Request.Response.Request.URL.String())
		_, err = h.Do(newReq(t, "GET", s.URL+"/loop", nil))
		assert.ErrorContains(t, err, "stopped after 10 redirects")
		assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
	})
}

func TestABodyLargerThanTheWindowIsSentAndReceived(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if !h2 {
				_ = http.NewResponseController(w).EnableFullDuplex()
			}
			_, _ = io.Copy(w, r.Body)
		})
		c := uncalmClientOf(t, s)
		const size = 20 << 20
		body := &countedBody{Reader: io.LimitReader(endless{}, size)}
		req := newReq(t, "POST", s.URL, body)
		req.ContentLength = size
		resp, err := c.RoundTrip(req)
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, resp.Body)
		assert.NoError(t, err)
		assert.EqualValues(t, size, n)
		resp.Body.Close()
		body.closedOnce(t)
	})
}

func TestTheKindsOfBodiesArriveWithTheirLength(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte("file"), 0o600))
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprint(w, r.ContentLength, " ", string(body))
		})
		c := clientOf(t, s)
		file, err := os.Open(path)
		require.NoError(t, err)
		for name, test := range map[string]struct {
			body   io.ReadCloser
			length int64
			want   string
		}{
			"nil":               {nil, 0, "0 "},
			"NoBody":            {http.NoBody, 0, "0 "},
			"NoBody, -1":        {http.NoBody, -1, "0 "},
			"file":              {file, 4, "4 file"},
			"known":             {bodyOf("known"), 5, "5 known"},
			"unknown":           {bodyOf("unknown"), -1, "-1 unknown"},
			"unknown, 0":        {bodyOf("zero"), 0, "-1 zero"},
			"empty, unknown":    {bodyOf(""), -1, "-1 "},
			"in memory":         {io.NopCloser(strings.NewReader("memory")), 6, "6 memory"},
			"in memory, length": {io.NopCloser(io.LimitReader(strings.NewReader("memory"), 3)), 3, "3 mem"},
		} {
			req := newReq(t, "POST", s.URL, nil)
			req.Body, req.ContentLength = test.body, test.length
			_, got := send(t, c, req)
			if name == "empty, unknown" && strings.HasPrefix(got, "0") {
				got = test.want // net/http has peeked
			}
			assert.Equal(t, test.want, got, name)
			if b, ok := test.body.(*countedBody); ok {
				b.closedOnce(t)
			}
		}
		assert.ErrorIs(t, file.Close(), os.ErrClosed)
		assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
	})
}

func TestARequestIsNotChangedAndIsTheResponses(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Host, " ", r.RequestURI, " ", r.Header.Get("X-Mine"), " ", r.UserAgent())
		})
		c := clientOf(t, s)
		for _, body := range []io.Reader{nil, bodyOf("x"), strings.NewReader("y")} {
			req := newReq(t, "POST", strings.Replace(s.URL, "://", "://user:word@", 1)+"/a%2fb?c=d#e", body)
			req.Host = "override.test"
			req.Header.Set("X-Mine", "mine")
			before := req.Clone(req.Context())
			before.Body = req.Body
			before.GetBody = nil
			resp, got := send(t, c, req)
			assert.Equal(t, "override.test /a%2fb?c=d mine Go-http-client/"+resp.Proto[len("HTTP/"):], got)
			assert.Same(t, req, resp.Request)
			req.GetBody = nil
			assert.Equal(t, before, req)
		}
	})
}
